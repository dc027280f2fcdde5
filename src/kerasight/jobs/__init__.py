"""From many pictures to their explanations, in parts of Parquet.

- `run` explains a folder, a table, a tar or a dataset into a job's folder, and goes on where it
  stopped.
- `read` gives back what is in such a folder.
- `schema` is the columns of its rows.

Importing this package imports NumPy; Keras and pyarrow come with their first use.
"""

from kerasight.jobs.job import Finished, run
from kerasight.jobs.parts import schema
from kerasight.jobs.reading import read

__all__ = ["Finished", "read", "run", "schema"]
