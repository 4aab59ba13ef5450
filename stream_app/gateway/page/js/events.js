// Server-sent events read by fetch, because an EventSource cannot send a token.

import { request } from "./api.js";

const FIRST_PAUSE_MS = 500;
const PAUSE_MS_MAX = 10_000;
const SILENCE_MS_MAX = 40_000; // the gateway says something every 15 s

/**
 * Follow a stream for ever, connecting again when it ends.  onEvent(name, data) gets each event with
 * its data parsed; onState("open" | "lost", error) tells how the connection does.
 */
export async function follow(path, { onEvent, onState, signal }) {
  let pause = FIRST_PAUSE_MS;
  while (!signal.aborted) {
    try {
      await read(path, (name, data) => {
        pause = FIRST_PAUSE_MS;
        onEvent(name, data);
      }, () => onState("open"), signal);
      if (!signal.aborted) onState("lost", null);
    } catch (error) {
      if (signal.aborted) return;
      onState("lost", error);
    }
    await sleep(pause, signal);
    pause = Math.min(pause * 2, PAUSE_MS_MAX);
  }
}

async function read(path, onEvent, onOpen, signal) {
  const silence = new AbortController();
  const response = await request(path, { signal: AbortSignal.any([signal, silence.signal]) });
  onOpen();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const timer = setTimeout(() => silence.abort(), SILENCE_MS_MAX);
    const { value, done } = await reader.read().finally(() => clearTimeout(timer));
    if (done) return;
    const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = parsed(block);
      if (event) onEvent(event.name, JSON.parse(event.data));
    }
  }
}

/** One block of a stream; null where it holds comments only. */
export function parsed(block) {
  let name = "message";
  const data = [];
  for (const line of block.split("\n")) {
    const [field, value] = split(line);
    if (field === "event") name = value;
    else if (field === "data") data.push(value);
  }
  return data.length ? { name, data: data.join("\n") } : null;
}

function split(line) {
  const colon = line.indexOf(":");
  if (colon < 0) return [line, ""];
  return [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, "")];
}

function sleep(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}
