"""Messages that could not be taken, with their reasons and original bytes, in MongoDB until a person, or the end of an
outage, resolves them.

`hold` puts them there and `spool` keeps them while MongoDB is away, within the limits of `usage`; `query` reads them,
`replay` publishes them again with the changes of `edit`, and `audit` records who resolved them and deletes them later.
`documents` and `reasons` are what is stored; `highlight` finds in the bytes what was refused.
"""
