-- Nexmark query 7.
-- The sink's columns stand in the order of the SELECT; the published ones name the price bidder and the bidder price.
CREATE TABLE nexmark_q7 (
  auction BIGINT,
  price BIGINT,
  bidder BIGINT,
  `dateTime` TIMESTAMP(3),
  extra VARCHAR,
  PRIMARY KEY (auction, bidder, `dateTime`, price, extra) NOT ENFORCED
) WITH (
  'connector' = 'cassandra', 'keyspace' = 'nexmark', 'table' = 'q7', 'table.create' = 'true'
);

CREATE JOB nexmark_q7 AS
INSERT INTO nexmark_q7
SELECT B.auction, B.price, B.bidder, B.`dateTime`, B.extra
from bid B
JOIN (
  SELECT MAX(price) AS maxprice, window_end as `dateTime`
  FROM TABLE(
          TUMBLE(TABLE bid, DESCRIPTOR(`dateTime`), INTERVAL '10' SECOND))
  GROUP BY window_start, window_end
) B1
ON B.price = B1.maxprice
WHERE B.`dateTime` BETWEEN B1.`dateTime`  - INTERVAL '10' SECOND AND B1.`dateTime`;
