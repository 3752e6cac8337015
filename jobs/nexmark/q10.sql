-- Nexmark query 10.
-- The published sink is a folder of files by dt and hm.
CREATE TABLE nexmark_q10 (
  auction BIGINT,
  bidder BIGINT,
  price BIGINT,
  `dateTime` TIMESTAMP(3),
  extra VARCHAR,
  dt STRING,
  hm STRING,
  PRIMARY KEY (auction, bidder, `dateTime`, price, extra) NOT ENFORCED
) WITH (
  'connector' = 'cassandra', 'keyspace' = 'nexmark', 'table' = 'q10', 'table.create' = 'true'
);

CREATE JOB nexmark_q10 AS
INSERT INTO nexmark_q10
SELECT auction, bidder, price, `dateTime`, extra, DATE_FORMAT(`dateTime`, 'yyyy-MM-dd'), DATE_FORMAT(`dateTime`, 'HH:mm')
FROM bid;
