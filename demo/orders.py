"""A shop's books on SQLAlchemy's asyncio layer and aiosqlite: an ordinary program.

SQLAlchemy runs its ORM, which is not asynchronous, in a greenlet, and switches out of it at
each call of the driver. Nothing in this file knows of weft. The output is the same every time.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path

from sqlalchemy import ForeignKey, func, select
from sqlalchemy.ext.asyncio import AsyncAttrs, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload

CUSTOMERS = 120
ORDERS = 1200
PRODUCTS = ("anchor", "buoy", "compass", "dinghy", "ensign", "fender", "grapnel", "hawser")
CLERKS = 8  # sessions at work at the same time


class Base(AsyncAttrs, DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    city: Mapped[str]
    orders: Mapped[list[Order]] = relationship(back_populates="customer", order_by="Order.id")


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"), index=True)
    shipped: Mapped[bool] = mapped_column(default=False)
    customer: Mapped[Customer] = relationship(back_populates="orders")
    lines: Mapped[list[Line]] = relationship(back_populates="order", order_by="Line.id")


class Line(Base):
    __tablename__ = "lines"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), index=True)
    product: Mapped[str]
    quantity: Mapped[int]
    cents: Mapped[int]
    order: Mapped[Order] = relationship(back_populates="lines")


Sessions = async_sessionmaker[AsyncSession]


async def fill(sessions: Sessions) -> None:
    """Four thousand rows or so, from a fixed seed."""
    dice = random.Random(1)
    cities = ("Ålesund", "Brest", "Cádiz", "Danzig")
    async with sessions.begin() as session:
        session.add_all(
            Customer(id=number, name=f"Customer {number:03}", city=dice.choice(cities))
            for number in range(1, CUSTOMERS + 1)
        )
        session.add_all(
            Order(
                id=number,
                customer_id=dice.randint(1, CUSTOMERS),
                lines=[
                    Line(
                        product=dice.choice(PRODUCTS),
                        quantity=dice.randint(1, 9),
                        cents=dice.randint(100, 99_00),
                    )
                    for _ in range(dice.randint(1, 4))
                ],
            )
            for number in range(1, ORDERS + 1)
        )


async def statement(sessions: Sessions, number: int) -> str:
    """One customer's account: a session of its own, relations loaded one by one and at once."""
    async with sessions() as session:
        customer = await session.get_one(Customer, number)
        orders = await customer.awaitable_attrs.orders
        query = select(Order).where(Order.customer_id == number).options(selectinload(Order.lines))
        loaded = (await session.scalars(query.order_by(Order.id))).all()
        assert list(orders) == list(loaded)
        total = sum(line.quantity * line.cents for order in loaded for line in order.lines)
        return f"{customer.name}  {customer.city:8} {len(loaded):3} orders {total / 100:12,.2f}"


async def look_up(sessions: Sessions, clerk: int) -> int:
    """Many small questions: here the switches weigh most."""
    pieces = 0
    async with sessions() as session:
        for number in range(1 + clerk, ORDERS + 1, CLERKS):
            query = select(func.sum(Line.quantity)).where(Line.order_id == number)
            pieces += (await session.scalar(query)) or 0
    return pieces


async def ship(sessions: Sessions) -> int:
    """Change rows through the unit of work, and roll some of it back."""
    async with sessions() as session:
        for order in await session.scalars(select(Order).where(Order.id % 3 == 0)):
            order.shipped = True
        await session.commit()
        for order in await session.scalars(select(Order).where(Order.id % 5 == 0)):
            order.shipped = True
        await session.flush()
        await session.rollback()
        shipped = await session.scalar(select(func.count()).where(Order.shipped))
        return shipped or 0


async def report(sessions: Sessions) -> None:
    revenue = func.sum(Line.quantity * Line.cents)
    best = select(Line.product, func.sum(Line.quantity), revenue).group_by(Line.product)
    cities = (
        select(Customer.city, func.count(Order.id.distinct()), revenue)
        .join(Customer.orders)
        .join(Order.lines)
        .group_by(Customer.city)
    )
    async with sessions() as session:
        print("\nproduct    pieces      revenue")
        for product, pieces, cents in await session.execute(best.order_by(revenue.desc())):
            print(f"{product:9} {pieces:7} {cents / 100:12,.2f}")
        print("\ncity       orders      revenue")
        for city, orders, cents in await session.execute(cities.order_by(Customer.city)):
            print(f"{city:9} {orders:7} {cents / 100:12,.2f}")


async def work(database: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{database}")
    try:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        sessions = async_sessionmaker(engine, expire_on_commit=False)
        await fill(sessions)
        accounts = await asyncio.gather(*(statement(sessions, number) for number in range(1, CUSTOMERS + 1)))
        print("\n".join(accounts))
        pieces = await asyncio.gather(*(look_up(sessions, clerk) for clerk in range(CLERKS)))
        print(f"\npieces sold: {sum(pieces)}; by clerk: {', '.join(map(str, pieces))}")
        print(f"orders shipped: {await ship(sessions)}")
        await report(sessions)
    finally:
        await engine.dispose()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(work(Path(folder) / "shop.sqlite"))
