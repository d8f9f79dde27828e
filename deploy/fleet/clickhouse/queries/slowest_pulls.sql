-- Image pulls by image, those with the slowest first. Quantiles are of pulls that succeeded, and exact.
SELECT
    image,
    count() AS pulls,
    uniqExact(node) AS nodes,
    countIf(code != 'OK') AS failed,
    quantileExactWeightedIf(0.5)(duration_us, 1, code = 'OK') / 1e6 AS p50_s,
    quantileExactWeightedIf(0.95)(duration_us, 1, code = 'OK') / 1e6 AS p95_s,
    max(duration_us) / 1e6 AS longest_s,
    argMax(node, (duration_us, node)) AS longest_on
FROM criproxy.pulls
WHERE began >= {since:DateTime('UTC')} AND began < {until:DateTime('UTC')}
GROUP BY image
ORDER BY p95_s DESC, image
LIMIT 50
