-- A user that may read what coldchain-exporter reads, and nothing else. For MariaDB and MySQL, as root:
--   mariadb dispatch -e "SET @password = '…'; SOURCE deploy/sql/mariadb.sql;"
-- then DATABASE_URL=mysql://coldchain_exporter:…@HOST/dispatch (percent-encode the password).
-- A read replica is the better place to look.

-- five connections for the exporter, and some for its doctor beside it
SET @sql = CONCAT('CREATE USER coldchain_exporter@''%'' IDENTIFIED BY ', QUOTE(@password), ' WITH MAX_USER_CONNECTIONS 8');
PREPARE statement FROM @sql;
EXECUTE statement;
DEALLOCATE PREPARE statement;
SET @sql = NULL, @password = NULL;

GRANT SELECT (id, status, created_at, updated_at) ON orders TO coldchain_exporter@'%';
GRANT SELECT (id, status, created_at, dispatch_date, total_distance_km) ON dispatches TO coldchain_exporter@'%';
GRANT SELECT (id, status, is_active) ON vehicles TO coldchain_exporter@'%';

-- Gauges of your own under `queries:` need the columns that they read as well. For the vehicle-temperature example:
-- GRANT SELECT (plate_number, min_temp_celsius, max_temp_celsius) ON vehicles TO coldchain_exporter@'%';
-- GRANT SELECT (vehicle_id, cm_number, temperature_a, temperature_b, created_at) ON vehicle_temperature_logs
--   TO coldchain_exporter@'%';
