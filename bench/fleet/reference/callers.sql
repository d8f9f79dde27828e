WITH by_method AS (
    SELECT executable, method, count(*) AS number, count(*) FILTER (code <> 'OK') AS failed, sum(duration_us) AS time
    FROM calls
    GROUP BY executable, method
)
SELECT
    executable,
    sum(number)::BIGINT AS number,
    sum(failed)::BIGINT,
    sum(time)::BIGINT / 1e6,
    list(method ORDER BY number DESC, method)[1:5]
FROM by_method
GROUP BY executable
ORDER BY sum(number) DESC, executable
LIMIT 25
