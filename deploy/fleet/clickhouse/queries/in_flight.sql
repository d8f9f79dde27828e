-- The most calls in flight at once on a node, by hour, of the calls that began in the time.
SELECT
    toStartOfHour(toDateTime(moment, 'UTC')) AS hour,
    max(now_in_flight) AS most
FROM
(
    SELECT
        moment,
        sum(change) OVER (ORDER BY moment, change ROWS UNBOUNDED PRECEDING) AS now_in_flight
    FROM
    (
        SELECT
            began + toIntervalMicrosecond(if(each = 1, 0, duration_us)) AS moment,
            arrayJoin([1, -1]) AS each,
            each AS change
        FROM criproxy.calls
        WHERE node = {node:String}
            AND began >= {since:DateTime('UTC')} AND began < {until:DateTime('UTC')}
            AND method NOT IN ('GetContainerEvents')
    )
)
GROUP BY hour
ORDER BY hour
