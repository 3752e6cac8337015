"""The users job on Spark Structured Streaming: JSON from Kafka, the same columns, appended to Cassandra with 256 writes in flight."""

import os
import sys

from pyspark.sql import SparkSession
from pyspark.sql.functions import col, from_json

host, port = os.environ["POLYBOLOS_TEST_CASSANDRA"].rsplit(":", 1)
settings = {
    "spark.jars": os.environ["BENCH_JARS"],
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "4",
    "spark.cassandra.connection.host": host,
    "spark.cassandra.connection.port": port,
    "spark.cassandra.auth.username": "cassandra",
    "spark.cassandra.auth.password": "cassandra",
    "spark.cassandra.output.concurrent.writes": "256",
}
builder = SparkSession.builder.master("local[2]").appName("users")
for key, value in settings.items():
    builder = builder.config(key, value)
spark = builder.getOrCreate()
print("session", flush=True)
sys.stdin.readline()

names = "id first_name last_name gender address post_code email username dob registered_date phone picture nationality".split()
schema = ", ".join([f"{name} STRING" for name in names] + ["age INT", "latitude STRING", "longitude STRING"])
source = (
    spark.readStream.format("kafka")
    .option("kafka.bootstrap.servers", os.environ["POLYBOLOS_TEST_KAFKA"])
    .option("subscribe", os.environ["BENCH_TOPIC"])
    .option("startingOffsets", "earliest")
    .load()
)
users = source.select(from_json(col("value").cast("string"), schema).alias("user")).select("user.*")
users = users.withColumn("latitude", col("latitude").cast("double")).withColumn("longitude", col("longitude").cast("double"))
query = (
    users.writeStream.format("org.apache.spark.sql.cassandra")
    .option("keyspace", "spark_streams")
    .option("table", os.environ["BENCH_TABLE"])
    .option("checkpointLocation", os.environ["BENCH_CHECKPOINT"])
    .trigger(availableNow=True)
    .start()
)
query.awaitTermination()
print("done", flush=True)
sys.stdin.readline()
spark.stop()
