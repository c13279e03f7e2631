"""Everyday English words with one common translation each into Spanish, French and German.

Nouns come without an article, German nouns with their capital letter, adjectives in the masculine
singular, verbs in the infinitive. Where an English word has several meanings, the table holds the
first one a dictionary gives.
"""

from typing import NamedTuple

__all__ = ["LANGUAGES", "WORDS", "Word"]

LANGUAGES: tuple[str, ...] = ("Spanish", "French", "German")


class Word(NamedTuple):
    """One English word and its translations."""

    english: str
    spanish: str
    french: str
    german: str


_ROWS = """
dog perro chien Hund; cat gato chat Katze; horse caballo cheval Pferd; cow vaca vache Kuh;
pig cerdo cochon Schwein; sheep oveja mouton Schaf; goat cabra chèvre Ziege;
hen gallina poule Henne; duck pato canard Ente; bird pájaro oiseau Vogel; fish pez poisson Fisch;
mouse ratón souris Maus; rabbit conejo lapin Kaninchen; wolf lobo loup Wolf; fox zorro renard Fuchs;
bear oso ours Bär; lion león lion Löwe; tiger tigre tigre Tiger; elephant elefante éléphant Elefant;
monkey mono singe Affe; snake serpiente serpent Schlange; frog rana grenouille Frosch;
bee abeja abeille Biene; fly mosca mouche Fliege; ant hormiga fourmi Ameise;
spider araña araignée Spinne; butterfly mariposa papillon Schmetterling; donkey burro âne Esel;
eagle águila aigle Adler; owl búho hibou Eule; whale ballena baleine Wal; shark tiburón requin Hai;
turtle tortuga tortue Schildkröte; squirrel ardilla écureuil Eichhörnchen; bull toro taureau Stier;
bread pan pain Brot; butter mantequilla beurre Butter; cheese queso fromage Käse;
milk leche lait Milch; egg huevo œuf Ei; meat carne viande Fleisch; ham jamón jambon Schinken;
soup sopa soupe Suppe; salt sal sel Salz; pepper pimienta poivre Pfeffer; sugar azúcar sucre Zucker;
honey miel miel Honig; oil aceite huile Öl; rice arroz riz Reis; flour harina farine Mehl;
apple manzana pomme Apfel; pear pera poire Birne; orange naranja orange Orange;
lemon limón citron Zitrone; grape uva raisin Traube; strawberry fresa fraise Erdbeere;
cherry cereza cerise Kirsche; peach melocotón pêche Pfirsich; pineapple piña ananas Ananas;
potato patata pomme_de_terre Kartoffel; tomato tomate tomate Tomate; onion cebolla oignon Zwiebel;
garlic ajo ail Knoblauch; carrot zanahoria carotte Karotte; lettuce lechuga laitue Salat;
cabbage col chou Kohl; mushroom seta champignon Pilz; bean frijol haricot Bohne;
water agua eau Wasser; wine vino vin Wein; beer cerveza bière Bier; coffee café café Kaffee;
tea té thé Tee; juice jugo jus Saft; cake pastel gâteau Kuchen;
chocolate chocolate chocolat Schokolade; house casa maison Haus; room habitación chambre Zimmer;
kitchen cocina cuisine Küche; door puerta porte Tür; window ventana fenêtre Fenster;
wall pared mur Wand; roof techo toit Dach; floor suelo sol Boden; stairs escalera escalier Treppe;
garden jardín jardin Garten; table mesa table Tisch; chair silla chaise Stuhl; bed cama lit Bett;
lamp lámpara lampe Lampe; mirror espejo miroir Spiegel; key llave clé Schlüssel;
clock reloj horloge Uhr; picture cuadro tableau Bild; carpet alfombra tapis Teppich;
cupboard armario placard Schrank; oven horno four Ofen; plate plato assiette Teller;
glass vaso verre Glas; cup taza tasse Tasse; bottle botella bouteille Flasche;
knife cuchillo couteau Messer; fork tenedor fourchette Gabel; spoon cuchara cuillère Löffel;
pillow almohada oreiller Kissen; soap jabón savon Seife; towel toalla serviette Handtuch;
brush cepillo brosse Bürste; broom escoba balai Besen; head cabeza tête Kopf;
hair pelo cheveux Haar; eye ojo œil Auge; ear oreja oreille Ohr; nose nariz nez Nase;
mouth boca bouche Mund; tooth diente dent Zahn; tongue lengua langue Zunge; neck cuello cou Hals;
shoulder hombro épaule Schulter; arm brazo bras Arm; hand mano main Hand; finger dedo doigt Finger;
back espalda dos Rücken; belly vientre ventre Bauch; leg pierna jambe Bein; knee rodilla genou Knie;
foot pie pied Fuß; heart corazón cœur Herz; blood sangre sang Blut; bone hueso os Knochen;
skin piel peau Haut; man hombre homme Mann; woman mujer femme Frau; child niño enfant Kind;
girl niña fille Mädchen; boy chico garçon Junge; father padre père Vater; mother madre mère Mutter;
brother hermano frère Bruder; sister hermana sœur Schwester; son hijo fils Sohn;
daughter hija fille Tochter; uncle tío oncle Onkel; aunt tía tante Tante;
grandfather abuelo grand-père Großvater; grandmother abuela grand-mère Großmutter;
friend amigo ami Freund; neighbour vecino voisin Nachbar; king rey roi König;
queen reina reine Königin; doctor médico médecin Arzt; teacher maestro professeur Lehrer;
baker panadero boulanger Bäcker; butcher carnicero boucher Metzger; farmer granjero fermier Bauer;
fisherman pescador pêcheur Fischer; soldier soldado soldat Soldat; sun sol soleil Sonne;
moon luna lune Mond; star estrella étoile Stern; sky cielo ciel Himmel; cloud nube nuage Wolke;
rain lluvia pluie Regen; snow nieve neige Schnee; wind viento vent Wind;
storm tormenta tempête Sturm; ice hielo glace Eis; fire fuego feu Feuer; smoke humo fumée Rauch;
earth tierra terre Erde; stone piedra pierre Stein; sand arena sable Sand;
mountain montaña montagne Berg; valley valle vallée Tal; river río rivière Fluss; lake lago lac See;
sea mar mer Meer; island isla île Insel; beach playa plage Strand; forest bosque forêt Wald;
tree árbol arbre Baum; leaf hoja feuille Blatt; root raíz racine Wurzel; flower flor fleur Blume;
rose rosa rose Rose; grass hierba herbe Gras; field campo champ Feld; wood madera bois Holz;
gold oro or Gold; silver plata argent Silber; iron hierro fer Eisen; light luz lumière Licht;
shadow sombra ombre Schatten; city ciudad ville Stadt; village pueblo village Dorf;
street calle rue Straße; bridge puente pont Brücke; church iglesia église Kirche;
school escuela école Schule; hospital hospital hôpital Krankenhaus; shop tienda magasin Laden;
market mercado marché Markt; castle castillo château Schloss; tower torre tour Turm;
bank banco banque Bank; factory fábrica usine Fabrik; airport aeropuerto aéroport Flughafen;
car coche voiture Auto; train tren train Zug; ship barco bateau Schiff; plane avión avion Flugzeug;
bicycle bicicleta vélo Fahrrad; wheel rueda roue Rad; path camino chemin Weg; book libro livre Buch;
letter carta lettre Brief; paper papel papier Papier; pencil lápiz crayon Bleistift;
pen bolígrafo stylo Kugelschreiber; newspaper periódico journal Zeitung; word palabra mot Wort;
language idioma langue Sprache; question pregunta question Frage; answer respuesta réponse Antwort;
song canción chanson Lied; music música musique Musik; dance baile danse Tanz; game juego jeu Spiel;
ball pelota balle Ball; gift regalo cadeau Geschenk; party fiesta fête Feier;
shirt camisa chemise Hemd; trousers pantalones pantalon Hose; dress vestido robe Kleid;
skirt falda jupe Rock; coat abrigo manteau Mantel; hat sombrero chapeau Hut;
shoe zapato chaussure Schuh; boot bota botte Stiefel; glove guante gant Handschuh;
sock calcetín chaussette Socke; button botón bouton Knopf; pocket bolsillo poche Tasche;
ring anillo anneau Ring; umbrella paraguas parapluie Regenschirm; money dinero argent Geld;
price precio prix Preis; work trabajo travail Arbeit; war guerra guerre Krieg;
peace paz paix Frieden; love amor amour Liebe; hatred odio haine Hass; fear miedo peur Angst;
joy alegría joie Freude; dream sueño rêve Traum; life vida vie Leben; death muerte mort Tod;
health salud santé Gesundheit; truth verdad vérité Wahrheit; freedom libertad liberté Freiheit;
luck suerte chance Glück; world mundo monde Welt; name nombre nom Name; number número nombre Zahl;
day día jour Tag; night noche nuit Nacht; morning mañana matin Morgen; evening tarde soir Abend;
week semana semaine Woche; month mes mois Monat; year año année Jahr; hour hora heure Stunde;
today hoy aujourd'hui heute; tomorrow mañana demain morgen; yesterday ayer hier gestern;
always siempre toujours immer; never nunca jamais nie; now ahora maintenant jetzt;
Monday lunes lundi Montag; Tuesday martes mardi Dienstag; Wednesday miércoles mercredi Mittwoch;
Thursday jueves jeudi Donnerstag; Friday viernes vendredi Freitag; Saturday sábado samedi Samstag;
Sunday domingo dimanche Sonntag; January enero janvier Januar; February febrero février Februar;
March marzo mars März; April abril avril April; June junio juin Juni; July julio juillet Juli;
August agosto août August; September septiembre septembre September;
October octubre octobre Oktober; November noviembre novembre November;
December diciembre décembre Dezember; spring primavera printemps Frühling; summer verano été Sommer;
autumn otoño automne Herbst; winter invierno hiver Winter; one uno un eins; two dos deux zwei;
three tres trois drei; four cuatro quatre vier; five cinco cinq fünf; six seis six sechs;
seven siete sept sieben; eight ocho huit acht; nine nueve neuf neun; ten diez dix zehn;
hundred cien cent hundert; thousand mil mille tausend; red rojo rouge rot; blue azul bleu blau;
green verde vert grün; yellow amarillo jaune gelb; black negro noir schwarz;
white blanco blanc weiß; brown marrón brun braun; grey gris gris grau; pink rosado rose rosa;
big grande grand groß; small pequeño petit klein; long largo long lang; short corto court kurz;
high alto haut hoch; new nuevo nouveau neu; old viejo vieux alt; young joven jeune jung;
good bueno bon gut; bad malo mauvais schlecht; hot caliente chaud heiß; cold frío froid kalt;
dry seco sec trocken; wet mojado mouillé nass; clean limpio propre sauber;
dirty sucio sale schmutzig; rich rico riche reich; poor pobre pauvre arm; strong fuerte fort stark;
weak débil faible schwach; sad triste triste traurig; happy feliz heureux glücklich;
beautiful hermoso beau schön; ugly feo laid hässlich; easy fácil facile einfach;
difficult difícil difficile schwierig; full lleno plein voll; empty vacío vide leer;
fast rápido rapide schnell; slow lento lent langsam; sweet dulce doux süß;
bitter amargo amer bitter; tired cansado fatigué müde; sick enfermo malade krank;
blind ciego aveugle blind; dead muerto mort tot; eat comer manger essen; drink beber boire trinken;
sleep dormir dormir schlafen; see ver voir sehen; hear oír entendre hören;
speak hablar parler sprechen; write escribir écrire schreiben; read leer lire lesen;
run correr courir laufen; swim nadar nager schwimmen; sing cantar chanter singen;
laugh reír rire lachen; cry llorar pleurer weinen; buy comprar acheter kaufen;
sell vender vendre verkaufen; give dar donner geben; come venir venir kommen; go ir aller gehen;
think pensar penser denken; live vivir vivre leben; open abrir ouvrir öffnen;
close cerrar fermer schließen; find encontrar trouver finden; search buscar chercher suchen;
win ganar gagner gewinnen; lose perder perdre verlieren; learn aprender apprendre lernen;
help ayudar aider helfen
"""


def _parse(row: str) -> Word:
    """Read one row of four words; an underscore stands for a space within a word."""
    english, spanish, french, german = (cell.replace("_", " ") for cell in row.split())
    return Word(english, spanish, french, german)


WORDS: tuple[Word, ...] = tuple(_parse(row) for row in _ROWS.replace("\n", " ").split(";"))
