"""all, map, any, race in asyncio; and plain `gather`, which replays as it ran."""

import asyncio
from datetime import timedelta

from everstep import AsyncEverstep

app = AsyncEverstep("sqlite:parallel.db")


@app.step
async def fetch(page: str) -> int:
    await asyncio.sleep(0.01 if page == "slow" else 0)
    if page == "missing":
        raise LookupError(page)
    return len(page)


@app.workflow
async def crawl(pages: list[str]) -> list[object]:
    sizes = await app.map(fetch, pages, key=str, limit=2)
    both = await app.all(lambda: fetch("a"), lambda: fetch("bb"))
    first = await app.any(lambda: fetch("missing"), lambda: fetch("there"))
    winner = await app.race(lambda: fetch("here"), lambda: app.sleep(timedelta(hours=1)))
    plain = await asyncio.gather(fetch("slow"), fetch("quick"))
    return [sizes, both, first, winner, plain]


async def main() -> None:
    async with app:
        run = await crawl.start(["one", "three", "seventeen"])
        print(await run.result())


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# [[3, 5, 9], [1, 2], 5, 4, [4, 5]]
