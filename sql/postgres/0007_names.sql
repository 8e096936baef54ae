-- No organization is called what ClickHouse's copies call their versions: it was in none of them, and since a copy that
-- lacks a row stops what is made from it, everybody's billing stood still.

-- migrate: up
-- Not of the rows that are there: a wrong one must not stop the migration. The pipeline leaves it out, and names it.
ALTER TABLE organizations
    ADD CONSTRAINT organizations_name_no_version
    CHECK (slug NOT LIKE 'version of %' AND id <> '00000000-0000-0000-0000-000000000000') NOT VALID;

-- migrate: down
ALTER TABLE organizations DROP CONSTRAINT IF EXISTS organizations_name_no_version;
