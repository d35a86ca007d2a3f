"""The exchange: the one object through which rows reach other rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.exchange.base import CommunicationStats, Exchange, LocalExchange

__all__ = ["CommunicationStats", "Exchange", "LocalExchange"]

__getattr__ = lazy_names(
    __name__,
    {"base": ["Exchange", "CommunicationStats", "LocalExchange"]},
    renamed={"Ledger": "CommunicationStats"},
)
