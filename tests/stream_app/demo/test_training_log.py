"""What the live view tells of the trainings."""

from pathlib import Path

from stream_app.demo.training_log import TrainingLog


def test_status_and_news_follow_the_log_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "retrain.log"
    log = TrainingLog(path)
    assert log.news() == []
    assert log.status == "starting the training"

    def says(*lines: str) -> list[str]:
        with path.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))
        return log.news()

    assert (
        says(
            '{"event": "retrain_finished", "result": "waiting"}',
            "nothing trained: 397 of 1500 sessions of two clicks or more are in the click log",
        )
        == []
    )
    assert log.status == "training begins at 1,500 sessions (397)"
    assert (
        says("training from scratch on 953 sessions, 1,745 clicks, 817 items; 108 held out") == []
    )
    assert log.status == "training on 953 sessions, 1,745 clicks"
    assert says("training  40 %: epoch 2/5, loss 7.345, 234 events/s, 0:00:10 left") == []
    assert log.status == "training epoch 2/5, loss 7.345, 0:00:10 left"
    assert not log.is_settled
    refused = "model v1 was refused: Recall@20 0.1111 is no better than popularity's 0.1111"
    assert says(refused) == [refused]
    assert log.is_settled
    assert (log.published, log.refused) == (0, 1)
    live = "model v2 is live: Recall@20 0.3, popularity 0.1"
    assert says("report: somewhere", live) == [live]
    assert (log.published, log.refused) == (1, 1)


def test_half_a_line_is_read_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "retrain.log"
    log = TrainingLog(path)
    path.write_text("model v2 is li")
    assert log.news() == []
    path.write_text("model v2 is live: better\n")
    assert log.news() == ["model v2 is live: better"]
