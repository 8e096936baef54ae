"""What Dagster loads; everything it says is in build.py."""

from ninjait_pipelines.build import build_defs

defs = build_defs()
