-- users of one region join likes by liker | 1.5
SELECT u.region, count(*) FROM users u JOIN likes l ON l.liker_id = u.id WHERE u.region = 'region 3' GROUP BY u.region;
