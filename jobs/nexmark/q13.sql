-- Nexmark query 13.
-- The side input is a Cassandra table here, and a file of 10 000 rows in the published text.
CREATE TABLE side_input (
  key BIGINT,
  `value` VARCHAR,
  PRIMARY KEY (key) NOT ENFORCED
) WITH (
  'connector' = 'cassandra', 'keyspace' = 'nexmark', 'table' = 'side_input', 'table.create' = 'true'
);

CREATE TABLE nexmark_q13 (
  auction BIGINT,
  bidder BIGINT,
  price BIGINT,
  `dateTime` TIMESTAMP(3),
  `value` VARCHAR,
  PRIMARY KEY (auction, bidder, `dateTime`, price) NOT ENFORCED
) WITH (
  'connector' = 'cassandra', 'keyspace' = 'nexmark', 'table' = 'q13', 'table.create' = 'true'
);

CREATE JOB nexmark_q13 AS
INSERT INTO nexmark_q13
SELECT
    B.auction,
    B.bidder,
    B.price,
    B.`dateTime`,
    S.`value`
FROM (SELECT *, PROCTIME() as p_time FROM bid) B
JOIN side_input FOR SYSTEM_TIME AS OF B.p_time AS S
ON mod(B.auction, 10000) = S.key;
