"""Manager: four shops sell from one stock at the same time, and never the same apple twice.

It prints:

    sold 600 of 600 apples, 0 are left
    4 shops have reported
    pears were counted 2,000 times
"""

import weft

SHOPS = 4


def take_one(left):
    """What `update_with` does at the server, in one piece: nobody comes in between."""
    return max(left - 1, -1)


def sell(name, stock, report):
    sold = 0
    while stock.update_with("apples", take_one) >= 0:
        sold += 1
    for _ in range(500):
        stock.add("pears counted")
    report.append((name, sold))


if __name__ == "__main__":
    with weft.Manager() as manager:
        stock, report = manager.dict({"apples": 600, "pears counted": 0}), manager.list()
        shops = [weft.Process(target=sell, args=(f"shop {number}", stock, report)) for number in range(SHOPS)]
        for shop in shops:
            shop.start()
        for shop in shops:
            shop.join()
        sold = sum(count for _, count in report)
        print(f"sold {sold} of 600 apples, {max(stock['apples'], 0)} are left")
        print(f"{len(report)} shops have reported")
        print(f"pears were counted {stock['pears counted']:,} times")
