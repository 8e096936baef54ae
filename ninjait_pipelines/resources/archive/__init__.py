"""The archive: a bucket of S3, or a folder."""
