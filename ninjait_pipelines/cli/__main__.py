"""`python -m ninjait_pipelines.cli`, for a machine where the script `ninjait` is not on the path."""

from ninjait_pipelines.cli import main

main()
