"""Data: arrays, draws and streams become sources of batches; files become arrays.

In flow arrays, functions, iterables and files, out flow ``Source`` values for the engine and arrays for everyone.
"""

from gradkit.data.arrays import check_arrays as check_arrays
from gradkit.data.preparation import split as split
from gradkit.data.preparation import standardize as standardize
from gradkit.data.readers import read_csv as read_csv
from gradkit.data.readers import read_idx as read_idx
from gradkit.data.readers import read_npz as read_npz
from gradkit.data.sources import drawn as drawn
from gradkit.data.sources import from_arrays as from_arrays
from gradkit.data.sources import source as source
from gradkit.data.sources import stream as stream
