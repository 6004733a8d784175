"""A checkout: steps, a transaction, a caught error, a durable sleep. The same program whether or not it was killed half way."""

import dataclasses
from datetime import timedelta

from everstep import Everstep, Retry, Transaction

app = Everstep("sqlite:quickstart.db")


@dataclasses.dataclass
class Order:
    id: int
    item: str
    card: str


@app.error("card_declined")
class CardDeclined(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@app.transaction
def reserve(tx: Transaction, order: Order) -> int:
    # The row and the checkpoint commit together or not at all.
    tx.execute("create table if not exists stock (item text, reserved bigint)")
    tx.execute("insert into stock values ($1, $2)", order.item, 1)
    return tx.execute("select count(*) from stock").scalar()


@app.step(retry=Retry(max_attempts=5, non_retryable=(CardDeclined,)))
def charge(order: Order) -> str:
    # The outside world may see this twice after a crash: the key tells it.
    key = app.idempotency_key()
    if order.card == "stolen":
        raise CardDeclined("reported stolen")
    return f"payment {order.id}, key of {len(key)} characters"


@app.workflow
def checkout(order: Order) -> str:
    reserve(order)
    try:
        payment = charge(order)
    except CardDeclined as error:  # the same class on the first run and on replay
        return f"refused: {error.reason}"
    app.sleep(timedelta(milliseconds=10))
    return payment


if __name__ == "__main__":
    with app:
        run = checkout.options(id="order-1").start(Order(1, "lamp", "valid"))
        print(run.result(timeout=timedelta(seconds=30)))
        print(checkout.options(id="order-2").start(Order(2, "lamp", "stolen")).result())
        print([step.name for step in run.steps()])

# Output:
# payment 1, key of 36 characters
# refused: reported stolen
# ['reserve', 'charge', 'sleep']
