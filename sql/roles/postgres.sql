-- PostgreSQL's roles: none of them is a superuser, and each may do what it is for. Run by a superuser in the pipeline's
-- database, before the first `ninjait migrate up`; on a database that a superuser has migrated it hands the tables over.
-- It may be run again at any time.
--
--     psql --dbname ninjait --file sql/roles/postgres.sql
--     psql --dbname ninjait --command "\password ninjait_owner"      and so for each role that signs in
--
-- | role              | who signs in by it                                    | may                                     |
-- |-------------------|-------------------------------------------------------|-----------------------------------------|
-- | ninjait_owner     | `ninjait migrate up`, `seed`, `agent`                 | everything in this database             |
-- | ninjait_pipelines | DATABASE_URL of the webserver, the daemon, the runs   | read all but password hashes, write invoices, expire audit logs |
-- | ninjait_reader    | people who ask                                        | read all but password hashes            |
-- | ninjait_dagster   | DAGSTER_DATABASE_URL                                  | everything in Dagster's own database    |

DO $roles$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['ninjait_owner', 'ninjait_pipelines', 'ninjait_reader', 'ninjait_dagster'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', role);
        END IF;
        EXECUTE format('ALTER ROLE %I NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', role);
    END LOOP;

    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT, CREATE, TEMPORARY ON DATABASE %I TO ninjait_owner', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO ninjait_pipelines, ninjait_reader', current_database());
END
$roles$;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO ninjait_owner;
GRANT USAGE ON SCHEMA public TO ninjait_pipelines, ninjait_reader;

-- What migrations made as another user becomes the owner's.
DO $handover$
DECLARE
    what record;
BEGIN
    FOR what IN SELECT nspname AS name FROM pg_namespace WHERE nspname IN ('billing', 'audit') LOOP
        EXECUTE format('ALTER SCHEMA %I OWNER TO ninjait_owner', what.name);
    END LOOP;
    FOR what IN
        SELECT nspname AS schema, relname AS name FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname IN ('public', 'billing', 'audit') AND relkind IN ('r', 'p', 'v', 'm')
    LOOP
        EXECUTE format('ALTER TABLE %I.%I OWNER TO ninjait_owner', what.schema, what.name);
    END LOOP;
    FOR what IN SELECT oid::regprocedure AS name FROM pg_proc WHERE pronamespace IN (to_regnamespace('audit'), to_regnamespace('billing')) LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO ninjait_owner', what.name);
    END LOOP;
END
$handover$;

-- What is there, and what the owner's migrations make later.
ALTER DEFAULT PRIVILEGES FOR ROLE ninjait_owner GRANT USAGE ON SCHEMAS TO ninjait_pipelines, ninjait_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE ninjait_owner GRANT SELECT ON TABLES TO ninjait_pipelines, ninjait_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO ninjait_pipelines, ninjait_reader;

-- Of users all columns but the password hash; a new database has this from a migration.
DO $users$
BEGIN
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('public.users') AND attname = 'password_hash') THEN
        REVOKE SELECT ON users FROM ninjait_pipelines, ninjait_reader;
        GRANT SELECT (id, organization_id, email, full_name, role, created_at, updated_at, deactivated_at) ON users
            TO ninjait_pipelines, ninjait_reader;
    END IF;
END
$users$;

DO $schemas$
DECLARE
    schema text;
    name text;
BEGIN
    FOR schema IN SELECT nspname FROM pg_namespace WHERE nspname IN ('billing', 'audit') LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO ninjait_pipelines, ninjait_reader', schema);
        EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO ninjait_pipelines, ninjait_reader', schema);
    END LOOP;
    -- The only tables that the pipeline writes to: what is agreed is not among them. A new database has them from
    -- migrations, which grant the same.
    IF EXISTS (SELECT FROM pg_namespace WHERE nspname = 'billing') THEN
        REVOKE INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA billing FROM ninjait_pipelines;
        ALTER DEFAULT PRIVILEGES FOR ROLE ninjait_owner IN SCHEMA billing
            REVOKE INSERT, UPDATE, DELETE ON TABLES FROM ninjait_pipelines;
        FOREACH name IN ARRAY ARRAY['invoices', 'invoice_lines'] LOOP
            IF to_regclass('billing.' || name) IS NOT NULL THEN
                EXECUTE format('GRANT INSERT, UPDATE, DELETE ON billing.%I TO ninjait_pipelines', name);
            END IF;
        END LOOP;
        IF to_regclass('billing.series') IS NOT NULL THEN
            GRANT INSERT, UPDATE ON billing.series TO ninjait_pipelines;
        END IF;
        IF to_regclass('billing.exports') IS NOT NULL THEN
            GRANT INSERT ON billing.exports TO ninjait_pipelines;
            GRANT USAGE ON SEQUENCE billing.export_batches TO ninjait_pipelines;
        END IF;
    END IF;
    -- Deletes nothing younger than a year, whatever it is asked for.
    IF to_regproc('audit.delete_expired') IS NOT NULL THEN
        GRANT EXECUTE ON FUNCTION audit.delete_expired TO ninjait_pipelines;
    END IF;
END
$schemas$;
