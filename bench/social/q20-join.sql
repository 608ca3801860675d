-- users join posts, count and avg by region | 0.60
SELECT u.region, count(*), avg(p.likes) FROM users u JOIN posts p ON p.user_id = u.id GROUP BY u.region ORDER BY 1;
