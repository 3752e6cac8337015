-- Users as the API tells them. Older records lack the last four fields: they are NULL then.
CREATE TABLE IF NOT EXISTS users_created (
  id STRING,
  first_name STRING,
  last_name STRING,
  gender STRING,
  address STRING,
  post_code STRING,
  email STRING,
  username STRING,
  dob STRING,
  registered_date STRING,
  phone STRING,
  picture STRING,
  nationality STRING,
  age INT,
  latitude STRING,
  longitude STRING
) WITH (
  'connector' = 'kafka',
  'topic' = 'users_created',
  'format' = 'json',
  'scan.startup.mode' = 'earliest-offset'
);

CREATE TABLE IF NOT EXISTS created_users (
  id STRING,
  first_name STRING,
  last_name STRING,
  gender STRING,
  address STRING,
  post_code STRING,
  email STRING,
  username STRING,
  dob STRING,
  registered_date STRING,
  phone STRING,
  picture STRING,
  nationality STRING,
  age INT,
  latitude DOUBLE,
  longitude DOUBLE,
  PRIMARY KEY (id) NOT ENFORCED
) WITH (
  'connector' = 'cassandra',
  'keyspace' = 'spark_streams',
  'table' = 'created_users',
  'table.create' = 'true'
);

CREATE JOB IF NOT EXISTS created_users_job AS
INSERT INTO created_users
SELECT id, first_name, last_name, gender, address, post_code, email, username, dob, registered_date, phone, picture,
       nationality, age, CAST(latitude AS DOUBLE), CAST(longitude AS DOUBLE)
FROM users_created;
