"""What an agreement costs in a period: pure functions of an agreement, its usage and the documents issued so far."""
