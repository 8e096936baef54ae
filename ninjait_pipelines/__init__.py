"""NinjaIT Pipelines: agent metrics, tickets, billing and archive, moved without loss by Dagster."""
