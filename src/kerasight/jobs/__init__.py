"""From many pictures to their explanations, in parts of Parquet."""

from kerasight.jobs.parts import schema

__all__ = ["schema"]
