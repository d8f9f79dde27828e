WITH of_node AS (
    SELECT began, began + to_microseconds(duration_us::BIGINT) AS ended
    FROM calls
    WHERE node = $node AND method <> 'GetContainerEvents'
),
changes AS (
    SELECT began AS moment, 1 AS change FROM of_node
    UNION ALL
    SELECT ended, -1 FROM of_node
),
sums AS (
    SELECT moment, sum(change) OVER (ORDER BY moment, change ROWS UNBOUNDED PRECEDING) AS number
    FROM changes
)
SELECT date_trunc('hour', moment) AS hour, max(number)::BIGINT
FROM sums
GROUP BY hour
ORDER BY hour
