-- What Nexmark's queries answer over all events, in plain DataFusion's own words, each after a line with its name: all rows that may be in the answer. After
-- the colon stand the columns that ties leave open: which of two bids of one price and time comes first. Columns are in the order of the tables in jobs/nexmark.

-- q0:
SELECT auction, bidder, price, datetime, extra FROM bid

-- q1:
SELECT auction, bidder, CAST('0.908' AS DECIMAL(4, 3)) * price, datetime, extra FROM bid

-- q2:
SELECT auction, price FROM bid WHERE auction % 123 = 0

-- q3:
SELECT p.name, p.city, p.state, a.id FROM auction a JOIN person p ON a.seller = p.id WHERE a.category = 10 AND p.state IN ('OR', 'ID', 'CA')

-- q4:
SELECT category, sum(final) / count(*) FROM (
  SELECT a.category, max(b.price) AS final FROM auction a JOIN bid b ON a.id = b.auction AND b.datetime BETWEEN a.datetime AND a.expires
  GROUP BY a.id, a.category
) GROUP BY category

-- q5:
SELECT auction, num, starttime FROM (
  SELECT auction, starttime, count(*) AS num, rank() OVER (PARTITION BY starttime ORDER BY count(*) DESC) AS place FROM (
    SELECT auction, date_bin(INTERVAL '2 seconds', datetime) - back AS starttime FROM bid CROSS JOIN (
      VALUES (INTERVAL '0 seconds'), (INTERVAL '2 seconds'), (INTERVAL '4 seconds'), (INTERVAL '6 seconds'), (INTERVAL '8 seconds')
    ) AS hops (back)
  ) GROUP BY auction, starttime
) WHERE place = 1

-- q6:
SELECT id, seller, sum(price) OVER last_eleven / count(*) OVER last_eleven FROM (
  SELECT a.id, a.seller, b.price, min(b.datetime) AS datetime, rank() OVER (PARTITION BY a.id ORDER BY b.price DESC) AS place
  FROM auction a JOIN bid b ON a.id = b.auction AND b.datetime BETWEEN a.datetime AND a.expires
  GROUP BY a.id, a.seller, b.price
) WHERE place = 1
WINDOW last_eleven AS (PARTITION BY seller ORDER BY datetime, id ROWS BETWEEN 10 PRECEDING AND CURRENT ROW)

-- q7:
SELECT b.auction, b.price, b.bidder, b.datetime, b.extra FROM bid b JOIN (
  SELECT max(price) AS price, date_bin(INTERVAL '10 seconds', datetime) AS starttime FROM bid GROUP BY starttime
) w ON b.price = w.price AND b.datetime BETWEEN w.starttime AND w.starttime + INTERVAL '10 seconds'

-- q8:
SELECT DISTINCT p.id, p.name, date_bin(INTERVAL '10 seconds', p.datetime) FROM person p
JOIN auction a ON p.id = a.seller AND date_bin(INTERVAL '10 seconds', p.datetime) = date_bin(INTERVAL '10 seconds', a.datetime)

-- q9: bidder, bid_extra
SELECT id, itemname, description, initialbid, reserve, datetime, expires, seller, category, extra, auction, bidder, price, bid_datetime, bid_extra FROM (
  SELECT a.*, b.auction, b.bidder, b.price, b.datetime AS bid_datetime, b.extra AS bid_extra,
    rank() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.datetime) AS place
  FROM auction a JOIN bid b ON a.id = b.auction AND b.datetime BETWEEN a.datetime AND a.expires
) WHERE place = 1

-- q10:
SELECT auction, bidder, price, datetime, extra, to_char(datetime, '%Y-%m-%d'), to_char(datetime, '%H:%M') FROM bid

-- q11:
SELECT bidder, count(*), min(datetime), max(datetime) + INTERVAL '10 seconds' FROM (
  SELECT bidder, datetime, sum(begins) OVER (PARTITION BY bidder ORDER BY datetime) AS number FROM (
    SELECT bidder, datetime,
      CASE WHEN datetime - lag(datetime) OVER (PARTITION BY bidder ORDER BY datetime) <= INTERVAL '10 seconds' THEN 0 ELSE 1 END AS begins
    FROM bid
  )
) GROUP BY bidder, number

-- q12 is by the clock: every bid of a bidder is in one window, and windows are ten seconds.
-- q12 found:
SELECT bidder, sum(bid_count) AS bids,
  bool_and(starttime = date_bin(INTERVAL '10 seconds', starttime) AND endtime = starttime + INTERVAL '10 seconds') AS aligned
FROM found GROUP BY bidder

-- q12:
SELECT bidder, count(*), true FROM bid GROUP BY bidder

-- q13:
SELECT b.auction, b.bidder, b.price, b.datetime, s.value FROM bid b JOIN side_input s ON b.auction % 10000 = s.key

-- q14:
SELECT auction, bidder, CAST('0.908' AS DECIMAL(4, 3)) * price,
  CASE WHEN date_part('hour', datetime) BETWEEN 8 AND 18 THEN 'dayTime' WHEN date_part('hour', datetime) IN (7, 19) THEN 'otherTime' ELSE 'nightTime' END,
  datetime, extra, character_length(extra) - character_length(replace(extra, 'c', ''))
FROM bid WHERE 908 * price > 1000000000 AND 908 * price < 50000000000

-- q15:
SELECT to_char(datetime, '%Y-%m-%d'), count(*), sum(CASE WHEN price < 10000 THEN 1 ELSE 0 END),
  sum(CASE WHEN price >= 10000 AND price < 1000000 THEN 1 ELSE 0 END), sum(CASE WHEN price >= 1000000 THEN 1 ELSE 0 END),
  count(DISTINCT bidder), count(DISTINCT CASE WHEN price < 10000 THEN bidder END),
  count(DISTINCT CASE WHEN price >= 10000 AND price < 1000000 THEN bidder END), count(DISTINCT CASE WHEN price >= 1000000 THEN bidder END),
  count(DISTINCT auction), count(DISTINCT CASE WHEN price < 10000 THEN auction END),
  count(DISTINCT CASE WHEN price >= 10000 AND price < 1000000 THEN auction END), count(DISTINCT CASE WHEN price >= 1000000 THEN auction END)
FROM bid GROUP BY to_char(datetime, '%Y-%m-%d')

-- q16:
SELECT channel, to_char(datetime, '%Y-%m-%d'), max(to_char(datetime, '%H:%M')), count(*), sum(CASE WHEN price < 10000 THEN 1 ELSE 0 END),
  sum(CASE WHEN price >= 10000 AND price < 1000000 THEN 1 ELSE 0 END), sum(CASE WHEN price >= 1000000 THEN 1 ELSE 0 END),
  count(DISTINCT bidder), count(DISTINCT CASE WHEN price < 10000 THEN bidder END),
  count(DISTINCT CASE WHEN price >= 10000 AND price < 1000000 THEN bidder END), count(DISTINCT CASE WHEN price >= 1000000 THEN bidder END),
  count(DISTINCT auction), count(DISTINCT CASE WHEN price < 10000 THEN auction END),
  count(DISTINCT CASE WHEN price >= 10000 AND price < 1000000 THEN auction END), count(DISTINCT CASE WHEN price >= 1000000 THEN auction END)
FROM bid GROUP BY channel, to_char(datetime, '%Y-%m-%d')

-- q17:
SELECT auction, to_char(datetime, '%Y-%m-%d'), count(*), sum(CASE WHEN price < 10000 THEN 1 ELSE 0 END),
  sum(CASE WHEN price >= 10000 AND price < 1000000 THEN 1 ELSE 0 END), sum(CASE WHEN price >= 1000000 THEN 1 ELSE 0 END),
  min(price), max(price), sum(price) / count(*), sum(price)
FROM bid GROUP BY auction, to_char(datetime, '%Y-%m-%d')

-- q18: price, channel, url, extra
SELECT auction, bidder, price, channel, url, datetime, extra FROM (
  SELECT *, rank() OVER (PARTITION BY bidder, auction ORDER BY datetime DESC) AS place FROM bid
) WHERE place = 1

-- q19: bidder, channel, url, datetime, extra
SELECT auction, bidder, price, channel, url, datetime, extra, number FROM (
  SELECT *, rank() OVER (PARTITION BY auction ORDER BY price DESC) AS place, count(*) OVER (PARTITION BY auction, price) AS alike FROM bid
) JOIN (VALUES (1), (2), (3), (4), (5), (6), (7), (8), (9), (10)) AS numbers (number) ON number >= place AND number < place + alike

-- q20:
SELECT auction, bidder, price, channel, url, b.datetime, b.extra, itemname, description, initialbid, reserve, a.datetime, expires, seller, category, a.extra
FROM bid b JOIN auction a ON b.auction = a.id WHERE a.category = 10

-- q21:
SELECT * FROM (
  SELECT auction, bidder, price, channel,
    CASE lower(channel) WHEN 'apple' THEN '0' WHEN 'google' THEN '1' WHEN 'facebook' THEN '2' WHEN 'baidu' THEN '3'
      ELSE regexp_match(url, '(&|^)channel_id=([^&]*)')[2] END AS channel_id
  FROM bid
) WHERE channel_id IS NOT NULL

-- q22:
SELECT auction, bidder, price, channel, split_part(url, '/', 4), split_part(url, '/', 5), split_part(url, '/', 6) FROM bid
