"""The engine: descents and a layout of members flow in, records of what they did flow out. It knows nothing of parameters.

Read ``segment`` (compiled programs), ``outline`` (what is known before), ``plan`` and ``runs`` (layout and course), ``failure``
and ``chunk`` (one chunk on its way), ``runner`` (the host loop), ``group`` (from hyper-parameters to records).
"""
