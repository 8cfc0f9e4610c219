-- A role that may read what coldchain-exporter reads, and nothing else. As the owner of the dispatch database:
--   psql -v password='…' -f deploy/sql/postgresql.sql dispatch
-- then DATABASE_URL=postgresql://coldchain_exporter:…@HOST/dispatch (percent-encode the password).
-- A read replica is the better place to look; the role is made on the primary all the same.

-- five for the exporter, and some for its doctor beside it
CREATE ROLE coldchain_exporter LOGIN PASSWORD :'password' CONNECTION LIMIT 8;
ALTER ROLE coldchain_exporter SET default_transaction_read_only = on;
-- beside the exporter's own, which are shorter
ALTER ROLE coldchain_exporter SET statement_timeout = '60s';

GRANT USAGE ON SCHEMA public TO coldchain_exporter;
GRANT SELECT (id, status, created_at, updated_at) ON orders TO coldchain_exporter;
GRANT SELECT (id, status, created_at, dispatch_date, total_distance_km) ON dispatches TO coldchain_exporter;
GRANT SELECT (id, status, is_active) ON vehicles TO coldchain_exporter;

-- Gauges of your own under `queries:` need the columns that they read as well. For the vehicle-temperature example:
-- GRANT SELECT (plate_number, min_temp_celsius, max_temp_celsius) ON vehicles TO coldchain_exporter;
-- GRANT SELECT (vehicle_id, cm_number, temperature_a, temperature_b, created_at) ON vehicle_temperature_logs
--   TO coldchain_exporter;
