"""From many pictures to their explanations, in parts of Parquet."""

from kerasight.jobs.parts import schema
from kerasight.jobs.reading import read

__all__ = ["read", "schema"]
