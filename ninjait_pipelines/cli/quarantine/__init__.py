"""`ninjait quarantine`: `commands` has the commands, `select` what they are about, `render` what they print."""
