"""The exchange: the one object through which rows reach other rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decentral.lazy import lazy_names

if TYPE_CHECKING:
    from decentral.exchange.base import Exchange, Ledger
    from decentral.exchange.local import LocalExchange

__all__ = ["Exchange", "Ledger", "LocalExchange"]

__getattr__ = lazy_names(__name__, {"base": ["Exchange", "Ledger"], "local": ["LocalExchange"]})
