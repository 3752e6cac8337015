-- Nexmark query 0, as published.
CREATE TABLE nexmark_q0 (
  auction BIGINT,
  bidder BIGINT,
  price BIGINT,
  `dateTime` TIMESTAMP(3),
  extra VARCHAR,
  PRIMARY KEY (auction, bidder, `dateTime`, price, extra) NOT ENFORCED
) WITH (
  'connector' = 'cassandra', 'keyspace' = 'nexmark', 'table' = 'q0', 'table.create' = 'true'
);

CREATE JOB nexmark_q0 AS
INSERT INTO nexmark_q0
SELECT auction, bidder, price, `dateTime`, extra FROM bid;
