-- Nexmark query 11, as published.
CREATE TABLE nexmark_q11 (
  bidder BIGINT,
  bid_count BIGINT,
  starttime TIMESTAMP(3),
  endtime TIMESTAMP(3),
  PRIMARY KEY (bidder, starttime) NOT ENFORCED
) WITH (
  'connector' = 'cassandra', 'keyspace' = 'nexmark', 'table' = 'q11', 'table.create' = 'true'
);

CREATE JOB nexmark_q11 AS
INSERT INTO nexmark_q11
SELECT
    B.bidder,
    count(*) as bid_count,
    SESSION_START(B.`dateTime`, INTERVAL '10' SECOND) as starttime,
    SESSION_END(B.`dateTime`, INTERVAL '10' SECOND) as endtime
FROM bid B
GROUP BY B.bidder, SESSION(B.`dateTime`, INTERVAL '10' SECOND);
