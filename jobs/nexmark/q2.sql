-- Nexmark query 2, as published.
CREATE TABLE nexmark_q2 (
  auction BIGINT,
  price BIGINT,
  PRIMARY KEY (auction, price) NOT ENFORCED
) WITH (
  'connector' = 'cassandra', 'keyspace' = 'nexmark', 'table' = 'q2', 'table.create' = 'true'
);

CREATE JOB nexmark_q2 AS
INSERT INTO nexmark_q2
SELECT auction, price FROM bid WHERE MOD(auction, 123) = 0;
