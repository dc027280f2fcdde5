"""What the heatmaps of a finished job have in common, without the model.

`kerasight.audit` makes an `Audit` of a job's folder. Importing this package imports NumPy alone;
scikit-learn and pyarrow come with their first use.
"""

from kerasight.auditing.result import Audit, ClassMaps, Finding, MapCluster, Share, Shown

__all__ = ["Audit", "ClassMaps", "Finding", "MapCluster", "Share", "Shown"]
