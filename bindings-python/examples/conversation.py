"""Runs that talk: a child, messages with a timeout, events, and a cancel with its clean-up."""

from datetime import timedelta

from everstep import Cancelled, Everstep, RunCancelled

app = Everstep("sqlite:conversation.db")


@app.workflow
def count(words: list[str]) -> int:
    return len(words)


@app.workflow
def review(title: str) -> str:
    words = count.start(title.split()).result()  # a child run
    app.set_event("stage", f"{words} words wait for a reviewer")
    verdict = app.receive("verdict", timeout=timedelta(seconds=30), returns=str)
    return f"{title!r}: {verdict or 'nobody answered'}"


@app.step
def withdraw(title: str) -> None:
    print(f"withdrawn: {title}")


@app.workflow
def patient(title: str) -> None:
    try:
        app.set_event("waiting", True)
        app.receive("never")
    except Cancelled:
        with app.shielded():
            withdraw(title)
        raise


if __name__ == "__main__":
    with app:
        run = review.options(id="review-1").start("On durable things")
        print(run.get_event("stage", timeout=timedelta(seconds=30)))
        app.send("review-1", "verdict", "accepted", idempotency_key="mail-77")
        print(run.result())

        run_two = patient.start("On waiting")
        run_two.get_event("waiting", timeout=timedelta(seconds=30))
        run_two.cancel(by="editor", why="out of season")
        try:
            run_two.result()
        except RunCancelled as error:
            print(error.message)

# Output:
# 3 words wait for a reviewer
# 'On durable things': accepted
# withdrawn: On waiting
# cancelled by editor: out of season
