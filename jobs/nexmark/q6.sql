-- Nexmark query 6.
-- As published, the query reads A.id outside of the subquery that has it, and Flink cannot run it. Here the winning bid of an auction is
-- chosen where the row numbers are known, the earliest of equal bids, and its auction is written too, as a seller has several.
CREATE TABLE nexmark_q6 (
  id BIGINT,
  seller BIGINT,
  avg_price BIGINT,
  PRIMARY KEY (id) NOT ENFORCED
) WITH (
  'connector' = 'cassandra', 'keyspace' = 'nexmark', 'table' = 'q6', 'table.create' = 'true'
);

CREATE JOB nexmark_q6 AS
INSERT INTO nexmark_q6
SELECT
    Q.id,
    Q.seller,
    AVG(Q.price) OVER
        (PARTITION BY Q.seller ORDER BY Q.`dateTime`, Q.id ROWS BETWEEN 10 PRECEDING AND CURRENT ROW)
FROM (
    SELECT *, ROW_NUMBER() OVER (PARTITION BY id, seller ORDER BY price DESC, `dateTime`) AS rownum
    FROM (SELECT A.id, A.seller, B.price, B.`dateTime`
        FROM auction AS A,
            bid AS B
        WHERE A.id = B.auction
            and B.`dateTime` between A.`dateTime` and A.expires)
) AS Q
WHERE Q.rownum <= 1;
