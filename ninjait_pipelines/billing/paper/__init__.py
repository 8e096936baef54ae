"""The paper of a document: what its reader sees, as HTML and as PDF."""
