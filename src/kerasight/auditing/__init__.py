"""What the heatmaps of a job have in common, found without the model.

- `audit` looks at the heatmaps of each class, and tells what chance does not explain.
- `Audit` is what it found; `Audit.write_html` makes a page of it.
"""

from kerasight.auditing.findings import audit
from kerasight.auditing.result import Audit, ClassMaps, Finding, MapCluster, Share, Shown

__all__ = ["Audit", "ClassMaps", "Finding", "MapCluster", "Share", "Shown", "audit"]
