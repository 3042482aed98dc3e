"""A small shop as a source database: customers, products, orders and their items.

The rows follow from their numbers alone, so that every run makes the same ones. Keys are of
different kinds (integer, text, composite), some values are NULL, amounts are decimals, moments
have a zone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ixflow.dialects import connected, dialect_of, run
from ixflow.tables.load import append, create_and_load
from ixflow.values import TableName

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["ORDERS", "add_orders", "create_shop", "order_count"]

ORDERS = 200_000
"""How many orders the shop begins with."""

_CUSTOMERS, _PRODUCTS, _MOST_ITEMS = 20_000, 500, 3
_START_MICROSECONDS = 1_735_718_400_000_000  # 2025-01-01 08:00 UTC
_PRICE_CENTS, _PRICE_STEP = 99, 37


def create_shop(engine: sa.Engine, *, orders: int = ORDERS) -> None:
    """Make the shop's tables and rows in one transaction, unless they are there already."""
    with connected(engine) as conn, conn.begin():
        if dialect_of(conn).exists(conn, TableName("orders")):
            return
        tables: tuple[tuple[str, pa.Table, tuple[str, ...]], ...] = (
            ("customers", _customers(_customer_count(orders)), ("customer_id",)),
            ("products", _products(), ("sku",)),
            ("orders", _orders(1, orders, _customer_count(orders)), ("order_id",)),
            ("order_items", _items(1, orders), ("order_id", "line")),
        )
        for name, rows, key in tables:
            create_and_load(conn, TableName(name), rows, primary_key=key)


def order_count(engine: sa.Engine) -> int:
    """Count the orders."""
    with connected(engine) as conn:
        return dialect_of(conn).count(conn, TableName("orders"))


def add_orders(engine: sa.Engine, count: int) -> int:
    """Add new orders behind the ones that are there; return how many there are then."""
    with connected(engine) as conn, conn.begin():
        first = 1 + int(run(conn, "SELECT coalesce(max(order_id), 0) FROM orders").scalar_one())
        customers = dialect_of(conn).count(conn, TableName("customers"))
        append(conn, TableName("orders"), _orders(first, count, customers))
        append(conn, TableName("order_items"), _items(first, count))
    return order_count(engine)


def _customer_count(orders: int) -> int:
    return max(10, min(_CUSTOMERS, orders // 10))


def _dice(numbers: np.ndarray, sides: int, salt: int) -> np.ndarray:
    """Throw dice that always fall the same way for the same number (splitmix64)."""
    with np.errstate(over="ignore"):
        z = numbers.astype(np.uint64) + np.uint64(salt) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) % np.uint64(sides)).astype(np.int64)


def _texts(numbers: np.ndarray, word: Callable[[int], str | None]) -> pa.Array:
    return pa.array([word(number) for number in numbers.tolist()], pa.string())


def _customers(count: int) -> pa.Table:
    numbers = np.arange(1, count + 1)
    countries = pa.array(["DE", "FR", "PL", "US", None])
    return pa.table(
        {
            "customer_id": pa.array(numbers, pa.int32()),
            "name": _texts(numbers, lambda n: f"Customer {n}"),
            "email": _texts(numbers, lambda n: f"c{n}@example.org" if n % 9 else None),
            "country": countries.take(pa.array(_dice(numbers, 5, 1))),
            "born_on": pa.array(_dice(numbers, 25_000, 2) - 11_000, pa.int32()).cast(pa.date32()),
        }
    )


def _products() -> pa.Table:
    numbers = np.arange(_PRODUCTS)
    return pa.table(
        {
            "sku": _skus(numbers),
            "title": _texts(numbers, lambda n: f"Product № {n}"),
            "price": _cents(_PRICE_CENTS + _PRICE_STEP * numbers),
        }
    )


def _skus(numbers: np.ndarray) -> pa.Array:
    return _texts(numbers, lambda n: f"SKU-{n:05d}")


def _cents(cents: np.ndarray) -> pa.Array:
    """See whole cents as decimals with two places."""
    table = np.zeros(len(cents), dtype=[("low", "<i8"), ("high", "<i8")])
    table["low"] = cents
    table["high"] = np.where(cents < 0, -1, 0)
    return pa.Array.from_buffers(
        pa.decimal128(12, 2), len(cents), [None, pa.py_buffer(table.tobytes())]
    )


def _lines(first: int, count: int) -> tuple[np.ndarray, ...]:
    """Lay out the items of some orders: order, line, product, quantity; one to three an order."""
    orders = np.repeat(np.arange(first, first + count), _MOST_ITEMS)
    lines = np.tile(np.arange(1, _MOST_ITEMS + 1), count)
    kept = lines <= 1 + _dice(orders, _MOST_ITEMS, 3)
    orders, lines = orders[kept], lines[kept]
    number = orders * _MOST_ITEMS + lines
    return orders, lines, _dice(number, _PRODUCTS, 4), 1 + _dice(number, 5, 5)


def _items(first: int, count: int) -> pa.Table:
    orders, lines, products, quantities = _lines(first, count)
    return pa.table(
        {
            "order_id": pa.array(orders, pa.int64()),
            "line": pa.array(lines, pa.int32()),
            "sku": _skus(products),
            "quantity": pa.array(quantities, pa.int32()),
        }
    )


def _orders(first: int, count: int, customers: int) -> pa.Table:
    numbers = np.arange(first, first + count)
    orders, _, products, quantities = _lines(first, count)
    totals = np.zeros(count, dtype=np.int64)
    np.add.at(totals, orders - first, quantities * (_PRICE_CENTS + _PRICE_STEP * products))
    moments = _START_MICROSECONDS + 97_000_000 * numbers + numbers % 1_000_000
    states = pa.array(["paid", "shipped", "delivered", "returned"])
    return pa.table(
        {
            "order_id": pa.array(numbers, pa.int64()),
            "customer_id": pa.array(1 + _dice(numbers, customers, 6), pa.int32()),
            "ordered_at": pa.array(moments, pa.timestamp("us", "UTC")),
            "state": states.take(pa.array(_dice(numbers, 4, 7))),
            "total": _cents(totals),
            "voucher": _texts(numbers, lambda n: f"V{n % 1000}" if n % 11 == 0 else None),
        }
    )
