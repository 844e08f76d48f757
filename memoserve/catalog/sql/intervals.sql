-- Wilson's 95% interval of a share; NULL without trials. trials may be an effective number: then scale
-- successes alike. At a share of 0 or 1 the near end is exactly that.
CREATE MACRO wilson_low(successes, trials) AS
    CASE WHEN trials > 0 AND successes <= 0 THEN 0.0 WHEN trials > 0 THEN greatest(0.0,
        (successes / trials + 1.959963984540054 ** 2 / (2 * trials)
         - 1.959963984540054 * sqrt(greatest(0.0, successes / trials * (1 - successes / trials)) / trials
                                    + 1.959963984540054 ** 2 / (4 * trials ** 2)))
        / (1 + 1.959963984540054 ** 2 / trials)) END;

CREATE MACRO wilson_high(successes, trials) AS
    CASE WHEN trials > 0 AND successes >= trials THEN 1.0 WHEN trials > 0 THEN least(1.0,
        (successes / trials + 1.959963984540054 ** 2 / (2 * trials)
         + 1.959963984540054 * sqrt(greatest(0.0, successes / trials * (1 - successes / trials)) / trials
                                    + 1.959963984540054 ** 2 / (4 * trials ** 2)))
        / (1 + 1.959963984540054 ** 2 / trials)) END;

-- The ends of the interval of the share hits / n, where the n are worth `effective` independent ones. Two
-- macros, as the ends of one struct would each be computed with the other, and take as long to plan.
CREATE MACRO share_low(hits, n, effective) AS wilson_low(hits / nullif(n, 0) * effective, effective);
CREATE MACRO share_high(hits, n, effective) AS wilson_high(hits / nullif(n, 0) * effective, effective);
