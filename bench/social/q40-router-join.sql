-- one user's posts LEFT JOIN likes GROUP BY | 1.4
SELECT p.id, p.title, count(l.liker_id) FROM posts p LEFT JOIN likes l ON l.user_id = p.user_id AND l.post_id = p.id WHERE p.user_id = 711 GROUP BY p.id, p.title ORDER BY p.id;
