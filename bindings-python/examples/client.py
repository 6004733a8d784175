"""A client without a worker: it starts, inspects and awaits runs that another process executes."""

import threading
from datetime import timedelta

from everstep import Everstep


def worker(stop: threading.Event, ready: threading.Event) -> None:
    """Stands for another process."""
    app = Everstep("sqlite:client.db")
    app.queue("mail", limit=2)

    @app.step
    def deliver(address: str) -> str:
        return f"delivered to {address}"

    del deliver
    with app:
        ready.set()
        stop.wait()


if __name__ == "__main__":
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=worker, args=(stop, ready))
    thread.start()
    ready.wait(30)
    client = Everstep("sqlite:client.db", role="client")
    try:
        # A declared step is a job: one row, one commit.
        deliver = client.reference("deliver", returns=str)
        runs = deliver.options(queue="mail", attributes={"campaign": "may"}).start_many(["ann", "bob", "cy"], id=lambda who: f"mail-{who}")
        print([run.result(timedelta(seconds=30)) for run in runs])
        page = client.runs(queue="mail", attribute=("campaign", "may"))
        print(sorted((info.id, info.state) for info in page.items))
    finally:
        client.close()
        stop.set()
        thread.join()

# Output:
# ['delivered to ann', 'delivered to bob', 'delivered to cy']
# [('mail-ann', 'succeeded'), ('mail-bob', 'succeeded'), ('mail-cy', 'succeeded')]
