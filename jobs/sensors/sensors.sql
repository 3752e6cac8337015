-- What sensors measure, by the minute. A minute's row is written once, when it is over.
CREATE TABLE IF NOT EXISTS readings (
  device STRING,
  kind STRING,
  value DOUBLE,
  ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH (
  'connector' = 'kafka',
  'topic' = 'sensor_readings',
  'format' = 'json',
  'scan.startup.mode' = 'earliest-offset'
);

CREATE TABLE IF NOT EXISTS minute_stats (
  device STRING,
  window_start TIMESTAMP(3),
  mean DOUBLE,
  n BIGINT,
  PRIMARY KEY (device, window_start) NOT ENFORCED
) WITH (
  'connector' = 'cassandra',
  'keyspace' = 'telemetry',
  'table' = 'minute_stats',
  'table.create' = 'true'
);

CREATE JOB IF NOT EXISTS minute_stats_job AS
INSERT INTO minute_stats
SELECT device, window_start, avg(value), count(*)
FROM TABLE(TUMBLE(TABLE readings, DESCRIPTOR(ts), INTERVAL '1' MINUTE))
GROUP BY device, window_start, window_end
EMIT ON WINDOW CLOSE;
