"""Boosting: descent in function space. Features become bins, a loss becomes a ``Descent`` whose steps are trees.

Files in the order of the flow: ``binning``, ``histograms``, ``splits``, ``growing`` (a tree), ``sharding`` (on several devices),
``curvatures`` and ``leaves`` (its values), ``problems`` and ``steps`` (one step), ``descent``; ``packing``, ``prediction``,
``importances`` and ``storage`` of what was grown, ``failures`` where nothing was.
"""

from gradkit.boosting.binning import Binned as Binned
from gradkit.boosting.binning import bin as bin
from gradkit.boosting.curvatures import fisher as fisher
from gradkit.boosting.curvatures import gauss_newton as gauss_newton
from gradkit.boosting.descent import descent as descent
from gradkit.boosting.failures import describe_failure as describe_failure
from gradkit.boosting.failures import describe_growth as describe_growth
from gradkit.boosting.importances import Importances as Importances
from gradkit.boosting.importances import gain_by_tree as gain_by_tree
from gradkit.boosting.importances import importances as importances
from gradkit.boosting.importances import permutation_importances as permutation_importances
from gradkit.boosting.prediction import Ensemble as Ensemble
from gradkit.boosting.prediction import leaf_indices as leaf_indices
from gradkit.boosting.prediction import predict as predict
from gradkit.boosting.prediction import staged_predict as staged_predict
from gradkit.boosting.problems import Examples as Examples
from gradkit.boosting.storage import load as load
from gradkit.boosting.storage import save as save
