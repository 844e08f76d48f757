-- The chance that a chi-square variable of df (1, 2, 3 ...) degrees of freedom is at least as large as
-- statistic. Finite sums of positive terms (Abramowitz and Stegun 26.4.4, 26.4.5), for odd df with erfc by
-- its series or, in the tail, by its continued fraction: relative error below 1e-10.
CREATE MACRO chi_square_tail(statistic, df) AS
    CASE WHEN df < 1 OR statistic IS NULL THEN NULL
         WHEN statistic <= 0 THEN 1.0
         ELSE least(1.0,
            CASE WHEN df % 2 = 0 THEN 0.0
                 WHEN statistic < 4 THEN 1 - list_sum(list_transform(range(50), lambda n: exp(
                    (n + 0.5) * ln(greatest(statistic, 1e-300) / 2) - statistic / 2 - lgamma(n + 1.5))))
                 ELSE exp(-statistic / 2) / sqrt(pi()) / list_reduce(range(120, 0, -1),
                    lambda below, k: sqrt(statistic / 2) + k / 2 / below, sqrt(statistic / 2)) END
            + coalesce(list_sum(list_transform(range(df::BIGINT // 2), lambda j: exp(
                (j + df % 2 / 2) * ln(greatest(statistic, 1e-300) / 2) - statistic / 2
                    - lgamma(j + 1 + df % 2 / 2)))), 0.0)
         ) END;
