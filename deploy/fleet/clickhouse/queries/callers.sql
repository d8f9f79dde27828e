-- The executables with the most calls, and the five methods that each calls the most.
SELECT
    executable,
    sum(calls_of_method) AS calls,
    sum(failed_of_method) AS failed,
    sum(time_of_method) / 1e6 AS total_s,
    arraySlice(arrayMap(each -> each.2, arraySort(groupArray((-toInt64(calls_of_method), method)))), 1, 5)
        AS methods
FROM
(
    SELECT
        executable,
        method,
        count() AS calls_of_method,
        countIf(code != 'OK') AS failed_of_method,
        sum(duration_us) AS time_of_method
    FROM criproxy.calls
    WHERE began >= {since:DateTime('UTC')} AND began < {until:DateTime('UTC')}
    GROUP BY executable, method
)
GROUP BY executable
ORDER BY calls DESC, executable
LIMIT 25
