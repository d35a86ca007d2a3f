"""Functional scaling laws: what batch-size schedules do to the loss, and which one
is best.

The model is kernel regression whose features have power-law spectra
(:mod:`.model`). Its risk under any schedule follows a law in two terms, drift and
remembered noise; the schedule that minimises it for a budget of data is computed
(:mod:`.law`); and the law can be fitted to the loss curves of one's own runs
(:mod:`.fit`).

>>> from decentral.theory import fsl
>>> task = fsl.PowerLaw(source=0.25, capacity=2)
>>> best = fsl.optimal(fsl.Law.of(task), budget=2**20, least=8)
>>> f"risk {best.risk:.4f}, share of the data before growth {best.schedule.shares()[0]:.0%}"
'risk 0.0578, share of the data before growth 97%'

References: Li, Chen, Huang, Wang, Wu, "Functional Scaling Laws in Kernel
Regression", NeurIPS 2025; Wang et al., "Fast Catch-Up, Late Switching", ICLR 2026.
"""

from decentral.theory.fsl.fit import Curve, Fit, fit
from decentral.theory.fsl.law import Law, Optimum, optimal, two_stage
from decentral.theory.fsl.model import PowerLaw, Stages, exact_risk

__all__ = [
    "Curve",
    "Fit",
    "Law",
    "Optimum",
    "PowerLaw",
    "Stages",
    "exact_risk",
    "fit",
    "optimal",
    "two_stage",
]
