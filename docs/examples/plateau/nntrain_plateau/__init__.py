"""An extension of nntrain: a subscriber, a sink and a data source."""

from nntrain_plateau.plateau import ReduceOnPlateau
from nntrain_plateau.rates import RatesFile
from nntrain_plateau.stripes import stripes

__all__ = ["RatesFile", "ReduceOnPlateau", "stripes"]
