-- The columns of the dispatch system that monitoring reads, and what the demo company itself needs.

CREATE TABLE orders (
    id INTEGER PRIMARY KEY, order_number VARCHAR(50) NOT NULL UNIQUE, order_date DATE NOT NULL,
    temperature_zone VARCHAR(20) NOT NULL, status VARCHAR(20) NOT NULL, priority INTEGER NOT NULL,
    created_at DATETIME NOT NULL, updated_at DATETIME NOT NULL);
CREATE TABLE vehicles (
    id INTEGER PRIMARY KEY, code VARCHAR(50) NOT NULL UNIQUE, plate_number VARCHAR(20) NOT NULL UNIQUE,
    vehicle_type VARCHAR(20) NOT NULL, status VARCHAR(30) NOT NULL, is_active BOOLEAN NOT NULL,
    min_temp_celsius FLOAT, max_temp_celsius FLOAT, created_at DATETIME NOT NULL, updated_at DATETIME NOT NULL);
CREATE TABLE dispatches (
    id INTEGER PRIMARY KEY, dispatch_number VARCHAR(50) NOT NULL UNIQUE, dispatch_date DATE NOT NULL,
    vehicle_id INTEGER NOT NULL REFERENCES vehicles (id), driver_id INTEGER, total_distance_km FLOAT,
    status VARCHAR(20) NOT NULL, created_at DATETIME NOT NULL, updated_at DATETIME NOT NULL);
CREATE INDEX ix_dispatches_dispatch_date ON dispatches (dispatch_date);
CREATE TABLE vehicle_temperature_logs (
    id INTEGER PRIMARY KEY, vehicle_id INTEGER, tid_id VARCHAR(50) NOT NULL, cm_number VARCHAR(20),
    temperature_a FLOAT, temperature_b FLOAT, created_at DATETIME NOT NULL);
CREATE INDEX ix_vehicle_temperature_logs_created_at ON vehicle_temperature_logs (created_at);
CREATE TABLE demo_events (due DATETIME NOT NULL, kind TEXT NOT NULL, id INTEGER NOT NULL);
CREATE INDEX ix_demo_events_due ON demo_events (due);
CREATE INDEX ix_demo_events_kind ON demo_events (kind, id);
CREATE TABLE demo_settings (seed INTEGER, orders_per_hour FLOAT, speed FLOAT, vehicles INTEGER, backlog_every FLOAT);
